"""The reference of keys and options, made from their one source: `python -m vhost9p.reference`.

The keys' texts, values and defaults are in config_schema.py and config_export.py, the options in
cli_options.py and in the modules of commands. Each module here writes them in one form; manual.txt
has the prose of the manual pages. Nothing here repeats what a key means.
"""
