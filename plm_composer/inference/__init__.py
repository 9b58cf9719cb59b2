"""Uses of a trained model: loading, export and embeddings."""
