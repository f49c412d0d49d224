"""What is written in user code: definitions of steps and workflows, and the primitives inside a job.

Definitions are plain objects and register nothing. What they do inside a job they ask of the run in their context
(``context.py``), whoever runs it: an engine, or a test kit.
"""
