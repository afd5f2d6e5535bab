"""The tribunal: several models draft, review and refine one answer, as a DAG over the ChatModel protocol.

A request comes to `Tribunals` (service.py), which finds its spec (config.py) and runs it: a strategy (strategies.py)
asks the members over a session (session.py), which knows deadline, budget, absences and events (events.py). What is
said to the models is pure and lies in wording.py and pocket_wording.py; what comes out is a Result (result.py).
"""
