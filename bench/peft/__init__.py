"""Every PEFT method on one model and one task, side by side."""
