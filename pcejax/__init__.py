"""Land-cover maps from a handful of labelled points: U-Nets and partial cross entropy in JAX."""

__version__ = "0.1.0"
