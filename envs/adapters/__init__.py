"""Our environments for other libraries, and theirs for us."""
