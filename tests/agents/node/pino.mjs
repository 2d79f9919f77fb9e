// Sends logs by pino-loki. The argument is JSON: url, service, times (ns, as text).
import pino from 'pino'

const { url, service, times } = JSON.parse(process.argv[2])
const transport = pino.transport({
  target: 'pino-loki',
  options: { host: url, batching: { interval: 0.2 }, labels: { service_name: service, env: 'test' }, logFormat: '{msg}' }
})
let now = ''
const logger = pino({ timestamp: () => `,"time":"${now}"` }, transport)
times.forEach((time, number) => {
  now = time
  logger[['info', 'warn', 'error', 'fatal'][number % 4]]({ meta: { number } }, `line ${number}`)
})
transport.end()
