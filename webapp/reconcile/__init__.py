"""We ask eSMS: about calls whose callback never came, and whether callbacks were true."""
