"""The index on an Elasticsearch server, in LMEnt's mapping. Needs the extra `elasticsearch`."""
