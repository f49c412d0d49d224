"""Cells of a notebook."""

from dataclasses import asdict

from p10.engine import engine
from p10.flows import Doc, index_all

engine.start()
job = engine.submit(index_all, [Doc("a")])
print(job.why().summary)
print([asdict(each) for each in engine.jobs(limit=0)])
engine.stop(drain_seconds=0)
