"""How good retrieval is: by entity against by name, judged by gold mentions or a language model.

As in LMEnt's paper: entities of all frequencies, up to 100 chunks of each method, up to three mentions of a
chunk in windows of 130 characters, a judge that says yes or no, wins by the number of chunks that are right.
"""
