"""The simulated annotation workflow, its query strategies, and the scores of its models."""
