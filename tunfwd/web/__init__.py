"""The page of `tunfwd web`: an ordinary user of the control socket, shown in a browser."""
