// Sends logs by winston-loki. The argument is JSON: url, json, service, times (ms).
import { once } from 'node:events'
import winston from 'winston'
import LokiTransport from 'winston-loki'

const { url, json, service, times } = JSON.parse(process.argv[2])
const transport = new LokiTransport({
  host: url,
  json,
  labels: { service_name: service, env: 'test' },
  replaceTimestamp: false,
  gracefulShutdown: false,
  format: winston.format.printf(({ message }) => message)
})
const logger = winston.createLogger({ level: 'debug', transports: [transport] })
times.forEach((timestamp, number) => {
  logger[['debug', 'info', 'warn', 'error'][number % 4]](`line ${number}`, { timestamp, number })
})
logger.end()
await once(logger, 'finish')
await transport.close()
