"""The tribunal: several models draft, review and refine one answer, as a DAG over the ChatModel protocol.

An ask (service.py) is checked against its spec (admission.py, config.py) and becomes a run (runs.py), which holds one
sitting (tribunal.py): a strategy (strategies.py) takes steps (steps.py) over a session (session.py, terms.py and
record.py), which knows budget, absences and events. What is said to the models is pure and lies in wording.py and
pocket_wording.py, how drafts rank in ranking.py; what comes out is a Result (result.py). virtual.py makes a tribunal a
ChatModel again; server.py and client.py put all of it behind a DeploymentHandle.
"""
