"""Searches small convolutional networks under hard limits."""
