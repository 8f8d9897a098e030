"""How fast this machine is: `xray-batch bench`.

Films of realistic size are made on the spot; each step of the pipeline is timed alone, in one process; then the
whole pipeline works through a stated mix of files, in turn with two other ways to do the same work.
"""
