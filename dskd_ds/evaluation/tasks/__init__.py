"""Question answering with lm-evaluation-harness: tasks, prompts, and scores per question."""
