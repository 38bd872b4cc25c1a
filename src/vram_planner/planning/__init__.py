"""Puts the rooms together: a request becomes a plan."""
