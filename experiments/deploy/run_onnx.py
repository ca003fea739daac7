"""Drive a Gymnasium environment with an exported policy; the policy itself needs numpy and onnxruntime alone.

python experiments/deploy/run_onnx.py policy.onnx envs:metarl/Reach-v0 --episodes 3
"""

import argparse
import json
import os
import sys

import gymnasium
import numpy as np
import onnxruntime


class Robot:
    """A policy with its memory; `reset` where an episode begins, `forget` where another task does."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["metarl"])
        self.forget()

    def forget(self) -> None:
        kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
        self.inputs: dict[str, np.ndarray] = {
            put.name: np.zeros(put.shape, kinds[put.type]) for put in self.session.get_inputs()
        }
        self.episode = 0

    def reset(self) -> None:
        room = self.about["max_length"] - self.about["environment"]["horizon"]["value"]
        if self.about["context"] != "trial" or room <= 0:
            self.forget()
        # An episode for which the memory has no room takes the last one's place.
        self.inputs["position"] = np.minimum(self.inputs["position"], max(room, 0))
        self.episode += 1
        self.inputs["first"] = np.ones(1, np.float32)

    def act(self, observation: np.ndarray, feedback: float = 0.0) -> np.ndarray:
        self.inputs["observation"] = np.asarray(observation, np.float32)[None]
        if self.inputs["position"][0] > 0:
            self.inputs["feedback"] = np.array([feedback], np.float32)
        action, *memory = map(np.asarray, self.session.run(None, self.inputs))
        remembered = {f"memory.{index}": value for index, value in enumerate(memory)}
        now = {"previous_action": action, "first": np.zeros(1, np.float32), "position": self.inputs["position"] + 1}
        self.inputs |= now | remembered
        return action[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy")
    parser.add_argument("env", help="an id that Gymnasium knows, such as envs:metarl/Reach-v0")
    parser.add_argument("--options", type=json.loads, default={}, help="of the environment: '{\"horizon\": 60}'")
    parser.add_argument("--episodes", type=int, default=3)
    options = parser.parse_args()
    sys.path.insert(0, os.getcwd())  # a module of one's own lies where one works
    robot, env, feedback = Robot(options.policy), gymnasium.make(options.env, **options.options), 0.0
    wanted, there = robot.about["spaces"]["observation"]["shape"], list(env.observation_space.shape or ())
    if wanted != there:
        parser.error(f"the policy's observations have the shape {wanted}, those of {options.env} {there}")
    for episode in range(options.episodes):
        (observation, _), over, total = env.reset(), False, 0.0
        robot.reset()
        while not over:
            observation, reward, terminated, truncated, info = env.step(robot.act(observation, feedback))
            feedback, over = info.get("feedback", reward), terminated or truncated
            total += float(reward)
        print(f"episode {episode + 1}: return {total:.2f}, success {info.get('success', 'unknown')}")


if __name__ == "__main__":
    main()
