"""What a method costs, measured side by side with plain cross-entropy in one process.

records.py    what a profile consists of; no torch
verdict.py    equal, costlier, cheaper or inconclusive
setting.py    synthetic images, and a session per method that shares them
timing.py     rounds in which all methods take turns, and their clocks
counts.py     passes, FLOPs, operators and waits of one step
memory.py     peak memory in a process of its own
profile.py    all of it, one record
scaling.py    the same over several sizes, as a table and a plot
claims.py     what papers say beside what was measured
"""
