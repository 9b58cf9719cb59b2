"""From a config to a trained model: checked parts, the Trainer, the datasets, the memory."""
