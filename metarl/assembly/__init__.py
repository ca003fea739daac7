"""Settings become objects: environments, policies and learners; runs opened for use."""
