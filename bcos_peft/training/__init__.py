"""Fine-tuning with the stock `Trainer`: loss, schedule of B, hidden tokens, parts that are trained."""
