// Sends logs by OpenTelemetry's SDK. The argument is JSON: way, url, compression, service, times (ns, as text), IDs.
import { context, trace, TraceFlags } from '@opentelemetry/api'
import { SeverityNumber } from '@opentelemetry/api-logs'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs'

const { way, url, compression, service, times, traceId, spanId } = JSON.parse(process.argv[2])
const { OTLPLogExporter } = await import(`@opentelemetry/exporter-logs-otlp-${way}`)
const exporter = new OTLPLogExporter({ url, compression })
const provider = new LoggerProvider({
  resource: resourceFromAttributes({ 'service.name': service, region: 'eu' }),
  processors: [new BatchLogRecordProcessor({ exporter })]
})
const logger = provider.getLogger('shop.orders', '1.2')
const span = { traceId, spanId, traceFlags: TraceFlags.SAMPLED }
times.forEach((time, number) => {
  logger.emit({
    timestamp: [Number(time.slice(0, -9)), Number(time.slice(-9))],
    context: trace.setSpanContext(context.active(), span),
    severityNumber: SeverityNumber.WARN2,
    severityText: 'attention',
    eventName: 'order.late',
    body: number % 2 ? { order: number, paid: false } : `order ${number}`,
    attributes: { number, price: 1.5, late: true, tags: ['a', 'b'], address: { city: 'Köln' }, region: 'us' }
  })
})
await provider.shutdown()
