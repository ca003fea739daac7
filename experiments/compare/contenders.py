"""Who is compared on an environment, on which seeds, by which commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from experiments.compare.plan import Job, Plan, iterations
from metarl.assembly.repeat import changes

MAIN = ("reach", "grasp", "navigate")  # compared in full, on three seeds
SEARCHES = ("reach_search", "navigate_search", "grasp_uncalibrated")  # one has to find out by trying, over episodes
FELT = ("push_turned", "reach_worn")  # motion itself tells, within an episode
METAWORLD = "metaworld"  # ML1, a task at a time
ADAPTATION = (*SEARCHES, *FELT, METAWORLD)  # cannot be done without adapting
GRADIENT = ("maml", "fomaml", "reptile")
EPISODES = {"ppo_scratch_1x": 10, "ppo_scratch_10x": 100, "ppo_scratch_100x": 1000}  # of the one task that PPO learns

EQUAL = 0.98  # with this share of maml's environment steps, in_context counts as trained for as many

Jobs = Callable[[Plan, int], list[Job]]


@dataclass(frozen=True)
class Contender:
    """A row of the tables.

    Args:
        jobs: the runs to train for a seed, in order; the last one is the contender's own. None: it is not trained here.
        every_seed: whether it gets all seeds, or the first one.
        gradient: whether it takes the gradient steps that it was trained to take.
        tuned: how it is fine-tuned on a held-out task, see `fine_tuning.METHODS`.
        episodes: of the one task that it learns from nothing.
        recurrent: whether it is Stable-Baselines3's, with the time of in_context.
    """

    jobs: Jobs | None = None
    every_seed: bool = True
    gradient: bool = False
    tuned: str | None = None
    episodes: int | None = None
    recurrent: bool = False


NOTES = {
    "in_context": "adapts by what it remembers, of the episode or of the whole trial, without a gradient",
    "in_context_equal": "in_context, trained on until it has had as many environment steps as maml",
    "in_context_episode": "in_context whose memory ends with the episode; all else equal",
    "memoryless": "no memory, but the last action and its feedback in the observation; all else as in_context",
    "reactive": "no memory, and neither of them",
    "oracle": "told what the others have to find out; without memory on the families that cannot be done without"
    " adapting, else in_context",
    "maml": "second-order MAML; without a name before it the policy learned by gradient steps alone, from nothing",
    "maml_mlp": "the same with the network of the MAML paper",
    "fomaml": "first-order MAML",
    "reptile": "Reptile",
    "multitask": "without memory; sampling and update as in_context, at least as many environment steps as maml;"
    " fine-tuned by gradient descent",
    "sgd": "in_context, and on a held-out task plain gradient descent",
    "ppo": "in_context, and on a held-out task PPO with Adam",
    "rl2_sb3": "RL^2 as one does it with sb3-contrib: RecurrentPPO, untuned, for the time of in_context's training",
    "ppo_scratch_1x": "Stable-Baselines3 PPO from nothing on each task alone, with the episodes of one adaptation step",
    "ppo_scratch_10x": "the same with ten times as many episodes",
    "ppo_scratch_100x": "the same with a hundred times as many episodes",
}


def note(name: str) -> str:
    """What a contender is; of `in_context+x`, what x is."""
    return NOTES.get(name.rpartition("+")[2], "")


def contenders(plan: Plan) -> dict[str, Contender]:
    """The contenders of an environment by name, in the order of the table."""
    found = {"in_context": Contender(in_context)}
    if plan.env in ADAPTATION:
        found |= {name: Contender(jobs) for name, jobs in MEMORIES.items()}
    else:
        found["in_context_equal"] = Contender(in_context_equal)
    if plan.env not in ADAPTATION or plan.has_recipe("maml"):
        found |= meta_learned(plan)
        found["multitask"] = Contender(multitask, tuned="sgd")
    if plan.env in (*SEARCHES, "reach"):
        found |= {f"in_context+{way}": Contender(fine_tuned(way), tuned=way) for way in ("sgd", "ppo")}
    if plan.env in (*ADAPTATION, "reach"):
        found["rl2_sb3"] = Contender(recurrent=True)
    if plan.env in MAIN:
        found["memoryless"] = Contender(MEMORIES["memoryless"], every_seed=False)
        found |= {name: Contender(every_seed=False, episodes=count) for name, count in EPISODES.items()}
        found["oracle"] = Contender(told, every_seed=False)
    return found


def meta_learned(plan: Plan) -> dict[str, Contender]:
    """The gradient algorithms, as their recipes train them."""
    found = {}
    for algo in GRADIENT:
        label = plan.config(algo).algo.label()
        found[label] = Contender(gradient(algo), algo == "maml" or plan.env not in MAIN, gradient=True)
        if label == "maml":
            found["maml_mlp"] = Contender(maml_mlp, gradient=True)
    return found


def seeds_of(plan: Plan, name: str) -> tuple[int, ...]:
    return plan.seeds if contenders(plan)[name].every_seed else plan.seeds[:1]


def jobs_of(plan: Plan, name: str, seed: int) -> list[Job]:
    """The runs to train for a contender, in order; the last one is the contender's own."""
    jobs = contenders(plan)[name].jobs
    return jobs(plan, seed) if jobs else []


def in_context(plan: Plan, seed: int) -> list[Job]:
    """The warm start, continued to the end of in_context's own budget."""
    job = plan.fresh("in_context", "in_context", seed)
    if not plan.shared():
        return [job]
    return [plan.warm(seed), replace(job, copy_of=plan.folder("warm", seed))]


def in_context_equal(plan: Plan, seed: int) -> list[Job]:
    """The in-context run, continued until it has had as many environment steps as maml; nothing if it has them."""
    ours, wanted = plan.env_steps("in_context"), plan.env_steps("maml")
    if not plan.shared() or ours is None or wanted is None or ours >= EQUAL * wanted:
        return []
    job = continued(plan, "in_context_equal", seed)
    return [*in_context(plan, seed), replace(job, budget=f"budget.env_steps={wanted}")]


def fine_tuned(way: str) -> Jobs:
    """A copy of the in-context run, which learns nothing more before it meets a held-out task."""
    return lambda plan, seed: [*in_context(plan, seed), continued(plan, f"in_context+{way}", seed)]


def continued(plan: Plan, name: str, seed: int) -> Job:
    """A copy of the in-context run under another name."""
    last = in_context(plan, seed)[-1]
    return replace(last, contender=name, folder=plan.folder(name, seed), copy_of=last.folder)


def in_context_episode(plan: Plan, seed: int) -> list[Job]:
    """Trials of one episode, of as many more tasks: as many environment steps in each update."""
    model = plan.config("in_context")
    tasks = model.algo.tasks * model.algo.trial_episodes
    changed = ("algo.trial_episodes=1", f"algo.tasks={tasks}", "agent.context=episode")
    return [plan.like(model, "in_context_episode", "in_context", seed, *changed)]


def without_memory(name: str, context: str, informed: bool = False) -> Jobs:
    """Trained as in_context is and measured as it is, without a gradient step.

    Args:
        context: what is left of the memory. informed: whether it is told the task.
    """

    def jobs(plan: Plan, seed: int) -> list[Job]:
        words = (f"agent.context={context}", "evaluate.steps=0", *([telling(plan)] if informed else []))
        return [plan.like(plan.config("in_context"), name, "multitask", seed, *words)]

    return jobs


def told(plan: Plan, seed: int) -> list[Job]:
    return [plan.fresh("oracle", "in_context", seed, telling(plan))]


def telling(plan: Plan) -> str:
    """The override that shows the policy the task: the object where the family hides one, else the goal."""
    hidden = "object" if plan.config("in_context").env.object_visible is not None else "goal"
    return f"env.{hidden}_visible=true"


def gradient(algo: str) -> Jobs:
    """The jobs of a gradient algorithm, which begins with the shared warm start if its recipe has one."""

    def jobs(plan: Plan, seed: int) -> list[Job]:
        label = plan.config(algo).algo.label()
        phases = plan.phases(algo)
        if not plan.shared() or phases is None or not phases[0]:
            return [plan.fresh(label, algo, seed)]
        job = plan.fresh(label, algo, seed, f"algo.warm_start.run={plan.folder('warm', seed)}")
        return [plan.warm(seed), replace(job, budget=iterations(phases[1]))]

    return jobs


def maml_mlp(plan: Plan, seed: int) -> list[Job]:
    """MAML alone with the network of its paper, all else as the Transformer's."""
    recipe = plan.config("maml")
    model = recipe.flat()
    own = plan.config("maml", "recipe=none", "agent=mlp").flat()
    usual = plan.config("maml", "recipe=none", "agent=transformer").flat()
    # What the recipe says of any policy, such as how loud its actions are, it says of this one too.
    agent = {key: model[key] for key in own if key.startswith("agent.") and model.get(key, 0) != usual.get(key, 0)}
    kept = {key: value for key, value in model.items() if key.startswith(("algo.", "evaluate."))}
    wanted = kept | {key: value for key, value in agent.items() if key != "agent.name"}
    job = plan.fresh("maml_mlp", "maml", seed, "recipe=none", "agent=mlp", *changes(wanted, own))
    return [replace(job, budget=plan.budget(recipe))]


def multitask(plan: Plan, seed: int) -> list[Job]:
    """Sampling and update as in_context, environment steps as maml: it must not lose because of its tuning."""
    job = plan.like(plan.config("in_context"), "multitask", "multitask", seed)
    steps = [plan.env_steps(algo) or 0 for algo in ("maml", "in_context")]
    if not plan.has_recipe("maml") or not all(steps):
        return [job]
    return [replace(job, budget=f"budget.env_steps={max(steps)}")]


MEMORIES: dict[str, Jobs] = {
    "in_context_episode": in_context_episode,
    "memoryless": without_memory("memoryless", "step"),
    "reactive": without_memory("reactive", "none"),
    "oracle": without_memory("oracle", "none", informed=True),
}
