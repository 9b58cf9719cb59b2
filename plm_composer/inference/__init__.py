"""What happens to a trained model: it is loaded, exported, and asked for embeddings."""
