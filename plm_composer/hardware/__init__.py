"""Speed and precision of processors, and communication and sharding between processes."""
