"""Budgets of wall-clock time: a ledger of the time spent, and a plan of how many batches still fit."""
