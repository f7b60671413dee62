// Node's own HTTP server: PORT and a directory with page.txt.
const fs = require('fs');
const http = require('http');

const [port, pages] = process.argv.slice(2);
const page = fs.readFileSync(`${pages}/page.txt`);

http
  .createServer((request, response) => {
    if (request.url === '/echo') {
      const parts = [];
      request.on('data', (part) => parts.push(part));
      request.on('end', () => response.end(Buffer.concat(parts)));
    } else if (request.url === '/chunked') {
      response.write(page.subarray(0, 1000));
      response.end(page.subarray(1000));
    } else if (request.headers['if-none-match'] === '"v1"') {
      response.writeHead(304, { ETag: '"v1"' }).end();
    } else {
      response.writeHead(200, { ETag: '"v1"', 'Content-Length': page.length }).end(page);
    }
  })
  .listen(Number(port), '127.0.0.1');
