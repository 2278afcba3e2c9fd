"""Parameter-efficient fine-tuning: which methods exist, what they can do, and how a model is wrapped."""
