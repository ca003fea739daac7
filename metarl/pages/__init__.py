"""What is written for people to read: the page of a run, and the card of a policy."""
