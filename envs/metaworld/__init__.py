"""Meta-World's tasks (Yu et al. 2019, arXiv 1910.10897; version 3.1.1) as batched environments on today's MuJoCo.

Models and meshes are read from the installed package, which is not imported; observations, rewards and successes are
written here from their definitions.
"""
