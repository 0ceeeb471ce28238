"""Graded responses as token ids: sampled from a task, read from files, written as rows, in resumable units."""
