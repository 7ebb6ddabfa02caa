"""Configs of comparisons: one factor varies, all else is equal."""
