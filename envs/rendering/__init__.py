"""Pictures, with OpenGL or without."""
