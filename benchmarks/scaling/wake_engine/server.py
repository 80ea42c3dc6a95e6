"""An engine that sleeps, listens on $PORT, says when on stdout, and answers every request with 200.

It imports compiled modules alone, so that its own start costs as little as a Python process can.
"""

import _socket
import posix
import sys
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
LOADING_S = 0.5

time.sleep(LOADING_S)
listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(posix.environ[b"PORT"])))
listener.listen(128)
sys.stdout.write(f"{time.monotonic()}\n")
sys.stdout.flush()
while True:
    descriptor = int(listener._accept()[0])  # pyright: ignore
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, descriptor)
    received = b""
    while b"\r\n\r\n" not in received and (some := connection.recv(65536)):
        received += some
    if received:
        connection.send(ANSWER)
    connection.close()
