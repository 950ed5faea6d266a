// The echo on node: node node_server.js PORT
const net = require("node:net");

const server = net.createServer({ noDelay: true }, (socket) => {
  socket.on("error", () => socket.destroy());
  socket.pipe(socket);
});
server.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
