"""What keys cost, and what they are worth under load: python -m loadtests.keys admission|fairness|overload."""
