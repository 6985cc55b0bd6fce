"""Annotation formats: one module each, all giving `Annotations`."""
