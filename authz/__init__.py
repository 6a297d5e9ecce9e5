"""The data path: one Check per request in, one decision out. Imports only `store`."""
