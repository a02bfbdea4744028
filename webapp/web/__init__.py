"""HTTP for everybody but eSMS, and how gunicorn serves all of it."""
