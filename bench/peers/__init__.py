"""Other receivers of the same callback, each as its community would write it: what the program is measured against."""
