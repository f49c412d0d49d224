"""Several modules, two queues, an engine that the command line opens."""
