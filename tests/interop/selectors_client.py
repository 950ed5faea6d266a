"""The tutorial's multi-connection client, with the lines that its text lost, and a comparison at the end.

python3 selectors_client.py HOST PORT NUM_CONNS: exits with 0 if every connection got back what it sent.
"""

import selectors
import socket
import sys
import types

sel = selectors.DefaultSelector()
messages = [b"Message 1 from client.", b"Message 2 from client."]
intact = 0


def start_connections(host, port, num_conns):
    for connid in range(1, num_conns + 1):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex((host, port))
        data = types.SimpleNamespace(
            connid=connid,
            msg_total=sum(len(m) for m in messages),
            received=b"",
            messages=messages.copy(),
            outb=b"",
        )
        sel.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, data=data)


def service_connection(key, mask):
    global intact
    sock, data = key.fileobj, key.data
    if mask & selectors.EVENT_READ:
        received = sock.recv(1024)
        data.received += received
        if not received or len(data.received) == data.msg_total:
            intact += data.received == b"".join(messages)
            sel.unregister(sock)
            sock.close()
            return
    if mask & selectors.EVENT_WRITE:
        if not data.outb and data.messages:
            data.outb = data.messages.pop(0)
        if data.outb:
            sent = sock.send(data.outb)
            data.outb = data.outb[sent:]


host, port, num_conns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
start_connections(host, port, num_conns)
while sel.get_map():
    for key, mask in sel.select(timeout=10):
        service_connection(key, mask)
print(f"{intact} of {num_conns} intact")
sys.exit(0 if intact == num_conns else 1)
