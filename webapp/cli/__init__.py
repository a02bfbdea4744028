"""The command line `esms-calls`: one file a command, named as it is typed."""
