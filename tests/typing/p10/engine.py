"""Not opened here: `relight worker p10.engine:engine --consume gpu --slots 2` does, with RELIGHT_STORE."""

from p10 import flows
from relight import Engine

engine = Engine(workflows=[flows], queues=[flows.bulk, flows.gpu])
