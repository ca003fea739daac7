"""Settings: their definitions, the command lines that change them, and the memory that they ask for."""
