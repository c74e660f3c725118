"""The names that the packages of luno/reflex export, at commit df5c0a5."""

NAMES = {
    "reflex": """
        Consumable ConsumeFunc Consumer ConsumerError ConsumerError.EventIDInt ConsumerError.IDInt
        ConsumerError.IsEventIDInt ConsumerError.IsIDInt ConsumerFunc ConsumerOption CursorStore
        ErrHeadReached ErrStopped ErrorInsertFunc ErrorStatus ErrorStatus.ReflexType ErrorStatus.ShiftStatus
        Event Event.ForeignIDInt Event.IDInt Event.IsForeignIDInt Event.IsIDInt EventFilter EventType
        IsAnyType IsExpected IsFilterErr IsHeadReachedErr IsStoppedErr IsType NewConsumable NewConsumer
        NewMockStream NewServer NewSpec RecoveryFunc ResetterCtx ResolveOptions Run Server Server.Stop
        Server.Stream Spec Spec.Name Spec.Stop Stopper StreamClient StreamClientPB StreamFunc StreamOption
        StreamOptions WithConsumerActivityTTL WithConsumerActivityTTLFunc WithConsumerLagAlert
        WithConsumerLagAlertGauge WithEventFilter WithFilterIncludeTypes WithRecoverFunction
        WithStreamFromHead WithStreamLag WithStreamToHead WithoutConsumerActivityTTL WithoutConsumerLag
        WrapStreamPB
    """,
    "filters": """
        AllEventFilters AnyEventFilters IsDeserializationErr IsMetadataEventFilterErr MetadataEventFilter
    """,
    "rpatterns": """
        AckConsumer AckConsumer.Consume AckConsumer.Name AckConsumerFunc AckEvent AckEvent.Ack Await Batch
        BatchConsumeFn BatchConsumer BatchConsumer.Reset BatchConsumer.Stop ConcurrentConsumer
        ConcurrentConsumer.Consume ConcurrentConsumer.Name ConcurrentConsumer.Reset ConsumerShard
        ConsumerShard.GetFilter ConsumerShards ErrBatchState ErrInvalidBatchConfig EventFilter GapSequence
        GapSequence.CurrentMax GapSequence.Doing GapSequence.Done HashOption HashOptionCustomHashFn
        HashOptionEventForeignID HashOptionEventID HashOptionEventType MemCursorStore MemOpt NewAckConsumer
        NewAckSpec NewBatchConsumer NewBatchSpec NewBestEffortConsumer NewBootstrapConsumable
        NewBootstrapSpec NewConcurrentConsumer NewConcurrentSpec NewDeadLetterConsumer NewGapSequence
        NewPoller Parallel ParallelAck ParallelAckConsumer ParallelConsumer ParallelSpecs PollFunc Poller
        Poller.Stream ReadThroughCursorStore RunForever ShardConsumerOpts WithConsumerSpecificOpts
        WithHashFn WithHashOption WithMemCursor WithMemCursorInt WithNameFormatter WithPollBackoff WithSleep
        WithStreamOpts
    """,
    "rsql": """
        CursorType CursorType.Cast CursorsOption CursorsTable DBC DisableCache ErrConsecEvent
        ErrInvalidIntID ErrorEventInserter ErrorInserter ErrorsOption ErrorsTable
        ErrorsTable.ToErrorInsertFunc EventsNotifier EventsOption EventsTable EventsTable.Clone
        EventsTable.Insert EventsTable.InsertWithMetadata EventsTable.ListenGaps EventsTable.StopGapListener
        EventsTable.Stream EventsTable.ToStream EventsTableInt EventsTableInt.Clone EventsTableInt.Insert
        EventsTableInt.InsertWithMetadata FillGaps Gap GapListenFunc GetLatestIDForTesting
        GetNextEventsForTesting IsDuplicateErrorInsertion NewCursorsTable NewErrorsTable NewEventsTable
        NewEventsTableInt NotifyFunc StopFillingGaps StreamWatcher TestCursorsTable TestEventsTable
        TestEventsTableInt TestEventsTableWithID WithCursorAsyncDisabled WithCursorAsyncPeriod
        WithCursorCursorField WithCursorIDField WithCursorSetCounter WithCursorStrings WithCursorTimeField
        WithErrorCounter WithErrorCreatedAtField WithErrorEventConsumerField WithErrorEventIDField
        WithErrorEventInserter WithErrorIDField WithErrorInserter WithErrorMsgField WithErrorRecordOnly
        WithErrorStatusField WithErrorTableName WithErrorUpdatedAtField WithEventForeignIDField
        WithEventIDField WithEventLookupLimit WithEventMetadataField WithEventTimeField WithEventTraceField
        WithEventTypeField WithEventsBackoff WithEventsCacheEnabled WithEventsInMemNotifier
        WithEventsInserter WithEventsLoader WithEventsNotifier WithIncludeNoopEvents WithTestCursorSleep
        WithoutEventsCache
    """,
    "testmock": """
        AwaitConsumer CursorStore CursorStore.Flush CursorStore.GetCursor CursorStore.SetCursor
        NewTestStreamer TestStreamer
    """,
    "grpctest": """
        Client Client.Close Client.StreamEvents NewClient NewServer Server Server.SentCount Server.Stop
        Server.Stream
    """,
}
