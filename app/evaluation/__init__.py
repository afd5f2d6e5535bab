"""`corral eval`: what a service answers, measured against references. It speaks HTTP only, so any address will do.

A run goes through tasks.py (what is asked), contestants.py (who is asked), service.py (asking), run.py (all of it, kept
in outcomes.py's file), compare.py (what it comes to), report.py and plot.py (what people read).
"""
