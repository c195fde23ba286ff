"""What runs a stack: each platform is known to the registry alone."""
