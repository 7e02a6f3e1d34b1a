"""Measures models: scores per item, their standard errors, and paired differences."""
