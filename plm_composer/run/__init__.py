"""From a config to a trained model: checked parts, datasets, the Trainer, and the memory estimate."""
