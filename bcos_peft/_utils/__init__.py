"""What every folder may use: it knows nothing of the package."""
