"""Other receivers of the same callback, written as is usual for their libraries; the program is compared with them."""
